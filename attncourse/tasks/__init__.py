"""Tiny tasks that tell mechanisms apart, each learned by a model of two layers in seconds.

    tasks.TASKS["pairs"].asks                    # what each asks; also .guess, .n_tokens
    rows = tasks.make("pairs", 4)                # .ids, .wanted (-1: nothing asked), .asked
    tasks.MECHANISMS                             # name -> Attention, those of the record
    result = tasks.train("pairs", "linear", seed=1)   # .accuracy, .losses, .by_place, .seconds

`python -m attncourse.tasks` trains all mechanisms on all tasks with three seeds and writes
results/tasks.json. Only training needs torch.
"""

from attncourse.tasks.questions import NOTHING, TASKS, Rows, Task, make
from attncourse.tasks.training import MECHANISMS, SHAPE, Result, train

__all__ = ["MECHANISMS", "NOTHING", "SHAPE", "TASKS", "Result", "Rows", "Task", "make", "train"]
