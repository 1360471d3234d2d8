"""Classify reviews as good or bad, and monitor statistics of their texts, such as length and unseen words."""

import sys

import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from exporter import Monitor

reviews = pd.read_csv("reviews.csv")
classifier = make_pipeline(TfidfVectorizer(), MultinomialNB()).fit(reviews["text"], reviews["prediction"])
model = Monitor("http://127.0.0.1:9877", "reviews", "1").wrap(classifier)
for line in sys.stdin:
    print(model.predict([line.strip()])[0])
