"""Read ``exporter.yml`` into frozen, typed objects; hold every default."""

from exporter.config.loading import ModelNames, load, load_models, load_own, model_files
from exporter.config.types import (
    FEATURE_ALERTS,
    MODEL_ALERTS,
    OTHER_SEGMENT,
    THRESHOLDS,
    Config,
    FeatureConfig,
    LinksConfig,
    MappingConfig,
    ModelConfig,
    QueueConfig,
    RetrainConfig,
    StoreConfig,
    Task,
    sampled_share,
)

__all__ = [
    "FEATURE_ALERTS",
    "MODEL_ALERTS",
    "OTHER_SEGMENT",
    "THRESHOLDS",
    "Config",
    "FeatureConfig",
    "LinksConfig",
    "MappingConfig",
    "ModelConfig",
    "ModelNames",
    "QueueConfig",
    "RetrainConfig",
    "StoreConfig",
    "Task",
    "load",
    "load_models",
    "load_own",
    "model_files",
    "sampled_share",
]
