"""What a model costs, measured: time, energy, memory, operations and words.

``case`` says what is measured, ``engines`` who does the work, ``worker`` measures one case in a
process of its own, ``run`` goes through them all and keeps the rows, ``report`` shows them.
"""
