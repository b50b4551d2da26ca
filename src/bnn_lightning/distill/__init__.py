"""Distillers and teachers. Pure torch."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bank": ["SoftLabelBank"],
        "ensemble": ["GapEnsemble"],
        "base": ["Batch", "Distiller", "HardLabels", "Outputs"],
        "selfkd": ["SelfKD"],
        "self_teacher": ["run_self_teacher"],
        "hooks": ["Taps", "watch"],
        "teacher": ["FrozenTeacher", "checkpoint_teacher", "published_teacher"],
        "teacher_kd": ["TeacherKD"],
    },
)
