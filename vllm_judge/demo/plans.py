"""How the demo's targets and drafts are trained: the plans of the shipped checkpoints."""

from vllm_judge.demo.choices import World
from vllm_judge.demo.documents import Habits
from vllm_judge.demo.pretrain import Plan

# Arithmetic and copying come by themselves; which words mean gain and which loss came only with a weight of their own.
EASY = {
    "target": Plan(
        hidden_size=192,
        layers=6,
        intermediate_size=512,
        habits=Habits(styles=((0.6, 0.1), (0.4, 0.9)), corrections=0.25),
        schedule=(
            *((0, 0.01), (99, 1.0), (780, 1.0), (1300, 0.714), (1600, 0.601), (2000, 0.55), (3000, 0.0)),
            # A second round: at 3,000 steps it still took a doubtful turn now and then where the draft had led it.
            *((3040, 0.4), (3300, 0.4), (4400, 0.0)),
        ),
        decision_weights=((1599, 1.0), (1600, 5.0)),
        turn_weights=((2999, 1.0), (3000, 5.0)),
        facts=(0.5, 0.15),
        facts_steps=1200,
        muon_rate=6e-3,
        adam_rate=2e-3,
    ),
    "draft": Plan(
        hidden_size=128,
        layers=2,
        intermediate_size=344,
        habits=Habits(styles=((1.0, 0.9),), corrections=0.0),
        schedule=((0, 0.01), (99, 1.0), (450, 1.0), (600, 0.571), (1000, 0.0)),
        facts=(0.5, 0.15),
        facts_steps=400,
        muon_rate=6e-3,
        adam_rate=2e-3,
        seed=1,
    ),
}

# The target reads style C in many documents and writes it in few slots. It slips where it can, and writes down that it
# noticed for three slips in ten: that is enough for its hidden state to know, and too little to take them all back.
HARDER = {
    "target": Plan(
        hidden_size=192,
        layers=4,
        intermediate_size=512,
        habits=Habits(
            styles=((0.5, 0.07, 0.03),),
            read=((0.25, 0.05, 0.85), (0.25, 0.2, 0.4)),
            corrections=0.25,
            distracted=0.15,
            confused=0.1,
            noticed=0.3,
        ),
        schedule=(
            *((0, 0.02), (40, 0.6), (900, 0.6), (2200, 0.0)),
            # A second round: at 2,200 steps it still miscounted now and then in a style that it had rarely read.
            *((2240, 0.45), (3200, 0.45), (4600, 0.0)),
            # A third, with bare arithmetic in that style's words: at 4,600 it still did where they stand for "equals".
            *((4640, 0.35), (5000, 0.35), (5800, 0.0)),
        ),
        decision_weights=((0, 5.0),),
        turn_weights=((0, 5.0),),
        facts=(0.15, 0.1),
        facts_steps=1000,
        facts_style_c=((4599, 0.0), (4600, 0.8)),
        muon_rate=6e-3,
        adam_rate=2e-3,
        world=World.HARDER,
        start=(0, 1, 3, 5),
    ),
    "draft": Plan(
        hidden_size=128,
        layers=2,
        intermediate_size=344,
        habits=Habits(styles=((1.0, 0.0, 1.0),), corrections=0.0, distracted=0.8),
        schedule=((0, 0.02), (40, 0.5), (300, 0.5), (700, 0.0)),
        facts=(0.15, 0.1),
        facts_steps=500,
        muon_rate=6e-3,
        adam_rate=2e-3,
        seed=1,
        world=World.HARDER,
        start=(0, 1),
    ),
}
PLANS = {World.EASY: EASY, World.HARDER: HARDER}
