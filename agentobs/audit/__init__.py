"""The books, recomputed from the journal and held against each other and against the provider's bill.

Reads alone. `journal.audit` is the whole of it; `reading` streams a journal run by run, `structure`, `costs`, `totals`,
`spans` and `bill` each judge one of the books, `reprice` asks what history would cost today.
"""
