"""The model that the examples serve; nothing of monitoring here."""

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def trained() -> Pipeline:
    """Loans by age, income and country."""
    data = pd.read_csv("loans.csv")
    columns = make_column_transformer((OneHotEncoder(), ["country"]), (StandardScaler(), ["age", "income"]))
    return make_pipeline(columns, LogisticRegression()).fit(data.drop(columns="prediction"), data["prediction"])
