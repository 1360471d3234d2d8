"""The model that the examples serve. There is no monitoring in this file."""

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def train() -> Pipeline:
    """Return a model that decides on a loan by age, income and country."""
    data = pd.read_csv("loans.csv")
    columns = make_column_transformer((OneHotEncoder(), ["country"]), (StandardScaler(), ["age", "income"]))
    return make_pipeline(columns, LogisticRegression()).fit(data.drop(columns="prediction"), data["prediction"])
