"""A search: the plan made of the options, the ledger of trials, and Tune's searcher, scheduler and callback."""
