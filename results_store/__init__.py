"""The results store: runs, jobs, attempts and results in SQL, and what is made from them."""
