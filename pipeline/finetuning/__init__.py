"""Fine-tuning on several tasks at once: config, data, loop, evaluation, export."""
