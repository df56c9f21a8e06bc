"""What an answer shows: effect, chance band, word measures, activations per token.

May import: concepts, engine, system and values; torch.
Start reading: effect.py, then chance.py.
"""
