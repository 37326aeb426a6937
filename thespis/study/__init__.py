"""A study: runs that build on one another, in one folder, for several seeds, and a table at the end.

It is a file thespis/studies/NAME.py, or a .py file of your own:

    '''GRPO after supervised learning: what play adds.            the first line is what `thespis study` lists

    Paper: Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300.
    '''
    from thespis.study import train

    SEEDS = 3                                                      # by default 5
    STAGES = {
        "sft": train("sft", env="thespis/Chains-v0", steps=32_000),
        "grpo": train("grpo", env="thespis/Chains-v0", steps=40_000, start_from="{sft}"),
    }

    train(ALGORITHM, **options)  a stage that is a run: the options are those of `thespis.train`, but for out, seed and callback
    make(FUNCTION, **options)    a stage that writes files: FUNCTION(folder, seed, **options) fills an empty folder. Global
                                 generators begin at the seed. Where it is killed it begins again, so it must be short

In any text of the options "{STAGE}" is the folder of an earlier stage, of the same seed, as in data="{samples}/rows.jsonl", and
"{seed}" the seed. A file may declare `table(folders) -> {row: {column: number}}`, of one seed; `folders` has each stage's.
By default a row is a stage, with the returns of its last evaluation; `last(folder)` reads these.

DIR/study.json             what the study is, and which stages are finished
DIR/seed-0/sft/            a run directory as any other
DIR/table.json, table.csv  the mean of each number over the seeds, its 95% interval and each seed's
"""

from thespis.study.stages import Stage, Study, last, make, studies, train
from thespis.study.study import study

__all__ = ["Stage", "Study", "last", "make", "studies", "study", "train"]
