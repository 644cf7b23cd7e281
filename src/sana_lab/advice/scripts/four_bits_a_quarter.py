from sana_lab.accounting import predict

left = {}
# the smallest, one between, the largest
for name in ("600M-512", "1600M-1024", "1.5-4.8B"):
    full, four_bit = (
        sum(predict(name, precision).values()) for precision in ("bf16", "nf4")
    )
    left[name] = 100 * four_bit / full
    print(
        f"{name:12} {full >> 20} MiB in 16 bits, {four_bit >> 20} in NF4: {left[name]:.0f} %"
    )
facts = {
    "best": f"{min(left.values()):.0f}",
    "worst": f"{max(left.values()):.0f}",
}
holds = max(left.values()) < 30  # a quarter, and some scales
