"""The report of a run: one HTML file that needs nothing else, for who has never seen the farm.

What is shown is pure data (`cells`, `costs`, `answer`, `doubts`, `observed`), charts are plotly figures as plain
dicts (`charts`), and the page is a template that holds both (`page`; `compared` is that of two runs). Figures are
the CSV's, under the CSV's names and with its digits, so that nobody finds two values of one thing.
"""
