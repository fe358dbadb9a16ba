"""Write data/reference/: what notebook 04 shows where GPT-2's tensors are not at hand. Needs them
(CIRCUITS_ASSETS).
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
    weights, tables = attention_weights(claim.model), []
    for link in claim.known["pairs"]:
        pairs = list(product(map(Head.parse, link["senders"]), map(Head.parse, link["receivers"])))
        tables.append(pair_table(weights, pair_scores(weights, link["side"]), pairs))
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    try:
        table = gpt2_channels()
    except ModelError as error:
        sys.exit(str(error))
    write_text(CHANNELS, table.to_csv(index=False, float_format="%.5g"))


if __name__ == "__main__":
    main()
