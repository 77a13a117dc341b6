"""Everything that only a GPU can tell, in one command and nine minutes: `attncourse gpu-run`.

A GPU is often rented by the minute, on a machine that starts bare. So the run needs torch, triton,
numpy and pytest, and no more. The chapters need Jupyter's parts too: `--pack` downloads them as
wheels that travel along, and without them the chapters are left out.
Each part is a process of its own with its own limit. It writes each result as it comes, so that
what was found is kept whatever happens to the rest.
"""
