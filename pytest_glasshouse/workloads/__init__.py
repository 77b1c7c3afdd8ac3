"""What is trained: mlp and lora, their material and their trainers."""
