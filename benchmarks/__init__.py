"""Side-by-side timings, one module per subject, each with its committed table.

README.md says what each needs.
"""
