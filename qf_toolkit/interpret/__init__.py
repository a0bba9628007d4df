"""What a fitted model has learnt: attention, codes, neuron tokens, single observations. Functions take and return labelled arrays."""
