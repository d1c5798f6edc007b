"""Mixed precision in a plain PyTorch script: ten lines."""

import torch
from sklearn.datasets import load_digits

import bitdial as bd

digits, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=290)
trainer = bd.AdaptiveMixedPrecisionTrainer(bd.MixedPrecisionConfig(dtype="bfloat16", max_grad_norm=1.0))
for x, y in zip((digits.float() / 16).split(62) * 10, labels.split(62) * 10, strict=True):
    outcome = trainer.train_step(model, optimizer, torch.nn.functional.cross_entropy, x, y, scheduler=schedule)
print(f"loss {outcome.loss:.3f}, {trainer.get_performance_summary()['performance']['applied_steps']} steps")
