"""Write data/reference/, which notebook 04 shows where GPT-2's tensors are not at hand.

Needs these tensors (CIRCUITS_ASSETS).
"""

import sys
from itertools import product

import pandas as pd

from helpers.channels import pair_scores, pair_table
from helpers.heads import Head
from helpers.models import attention_weights
from suite.errors import ModelError
from suite.files import write_text
from suite.ledger import get_claim
from suite.registry import DATA

CHANNELS = DATA / "reference" / "gpt2_channels.csv"


def gpt2_channels() -> pd.DataFrame:
    """Scores and ranks of the pairs that the paper takes as known (B1), in the paper's model."""
    claim = get_claim("B1")
    weights = attention_weights(claim.model)
    tables = []
    for link in claim.known["pairs"]:
        senders = [Head.parse(name) for name in link["senders"]]
        receivers = [Head.parse(name) for name in link["receivers"]]
        scores = pair_scores(weights, link["side"])
        tables.append(pair_table(weights, scores, list(product(senders, receivers))))
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    try:
        table = gpt2_channels()
    except ModelError as error:
        sys.exit(str(error))
    write_text(CHANNELS, table.to_csv(index=False, float_format="%.5g"))


if __name__ == "__main__":
    main()
