"""The commands: a module of the same name in this folder, and what the list of commands says of it."""

COMMANDS = {
    "inspect": "Show the tensors of MODEL on which a RobustBlock can stand, and the recommended one.",
    "harden": "Harden MODEL: splice an orthogonal block in, prune, fine-tune, and write one self-contained file.",
    "evaluate": "Measure quality prediction and robustness of MODELs, with attacks.",
    "score": "Score images with MODEL.",
    "serve": "Serve the scores of MODEL over HTTP.",
    "attack": "Attack images as MODEL sees them and write them as 8-bit PNG files.",
    "certify": "Bound the smoothed scores of MODELs for every change of an image within an L2 radius.",
    "train": "Train ARCH on scored images and write it as one self-contained file.",
    "train-purifier": "Train a small filter to turn attacked images back into clean ones, for --purify fcn:path=OUT.",
    "bench": "Time MODELs side by side: calls, training steps, memory, parameters, operations, file size.",
    "run": "Run the commands of PIPELINE.toml, each only where its settings or inputs have changed.",
    "info": "Show who made MODEL: recipe, source, data, date, command line, figures, versions.",
    "card": "Write the model card of MODEL as Markdown.",
    "schema": "Show the JSON schema NAME of an output or of a command's recipes.",
    "doctor": "Show what this machine has for the work: versions, devices, processors, extras, disk.",
    "export": "Export MODEL to a file that runs without iqa-armor, kept only where it scores as MODEL does.",
    "demo": "Harden the small network that iqa-armor ships and attack it, on generated images, in a few minutes.",
    "data": "Look at datasets before they are used.",
}
