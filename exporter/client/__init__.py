"""What a Python model service imports to be monitored; standard library only.

::

    monitor = Monitor("http://127.0.0.1:9877", "digits", "3")
    prediction_id = monitor.record(inputs={"image": image}, prediction="7", confidence=0.93, duration_seconds=0.012)
    monitor.feedback(prediction_id, "corrected", label="1", user="teacher-4")
"""

from exporter.client.client import Monitor

__all__ = ["Monitor"]
