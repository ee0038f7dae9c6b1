"""The forms of records, each in a module: how it is recognised, asked, scored, predicted."""
