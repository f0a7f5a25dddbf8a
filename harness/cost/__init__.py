"""What a pipeline costs: time, FLOPs, memory and energy; measured, counted or estimated; and N for a budget."""
