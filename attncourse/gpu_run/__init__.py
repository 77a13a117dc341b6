"""Everything that only a GPU can tell, in one command and nine minutes: `attncourse gpu-run`.

A GPU is often rented by the minute, on a machine that starts bare. So the run needs torch, triton,
numpy and pytest, and no more; the chapters need Jupyter's parts too, and are left out without them.
Each part is a process of its own with its own limit. It writes each result as it comes, so that
what was found is kept whatever happens to the rest.
"""
