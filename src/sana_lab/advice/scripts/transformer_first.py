from sana_lab.accounting import predict

larger = []
for name in ("600M-512", "1600M-1024", "1.5-4.8B"):
    full, eight_bit = predict(name, "bf16"), predict(name, "int8")
    saved = {
        part: (full[part] - eight_bit[part]) / 2**30
        for part in ("text_encoder", "transformer")
    }
    larger.append(saved["text_encoder"] > saved["transformer"])
    print(
        f"{name:12} saved: text encoder {saved['text_encoder']:.2f} GiB, transformer {saved['transformer']:.2f}"
    )
facts = {"larger": sum(larger), "all": len(larger)}
holds = not any(larger)
