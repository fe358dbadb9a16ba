"""The machinery behind the notebooks: models as files, the ledger of claims, results, the
scorecard.
"""
