"""What a fitted model has learnt: attention, codes, tokens of neurons, single observations. Labelled arrays in, labelled arrays out."""
