"""Write the training data, loans.csv and reviews.csv, and tonight.csv: loans of people who earn half as much."""

import numpy as np
import pandas as pd

rng = np.random.default_rng(7)


def loans(rows: int, income: float) -> pd.DataFrame:
    """Return applicants, and whether they got a loan."""
    age, country = rng.integers(18, 80, rows), rng.choice(["NL", "BE", "DE"], rows)
    earned = rng.lognormal(np.log(income), 0.4, rows).round()
    return pd.DataFrame(
        {"age": age, "income": earned, "country": country, "prediction": np.where(earned > 2500, "yes", "no")}
    )


words = {
    "good": ["lovely", "great", "kind", "happy", "warm"],
    "bad": ["awful", "slow", "rude", "cold", "broken"],
}
labels = rng.choice(list(words), 1000)
texts = [" ".join(rng.choice([*words[label], "the", "food", "staff"], rng.integers(4, 12))) for label in labels]

loans(2000, 2600).to_csv("loans.csv", index=False)
loans(2000, 1300).drop(columns="prediction").to_csv("tonight.csv", index=False)
pd.DataFrame({"text": texts, "prediction": labels}).to_csv("reviews.csv", index=False)
