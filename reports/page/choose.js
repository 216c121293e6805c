// The rule of `choose` in reports/recommender. A test compares both on random questions.

// The best of some candidates under limits; a limit that is null does not apply.
function choose(candidates, limits) {
  const eligible = candidates.filter(it => !whyNot(it, limits));
  if (!eligible.length) return {chosen: null, tied: []};
  const fastest = eligible.reduce((best, it) => it.time < best.time ? it : best);
  const tied = eligible.filter(it => it === fastest || it.noiseLow <= fastest.noiseHigh);
  const error = it => it.isExact ? 0 : it.errorHigh;
  const better = (a, b) => b.isExact - a.isExact || error(a) - error(b) || a.time - b.time;
  return {chosen: tied.reduce((best, it) => better(it, best) < 0 ? it : best), tied};
}

// The reasons why a candidate is not eligible, or an empty text. A missing number is a reason.
function whyNot(it, limits) {
  const held = [
    ["error", it.errorHigh, limits.error, SHOWN.show_error, sixDigits],
    ["memory", it.memory, limits.memory, SHOWN.show_bytes],
    ["time", it.timeHigh, limits.time, SHOWN.show_ms],
    ["perplexity", it.perplexity?.high ?? null, limits.perplexity, SHOWN.show_ratio],
  ];
  const isBroken = ([, value, limit]) => limit !== null && (value === null || value > limit);
  const found = held.filter(isBroken).map(([name, value, limit, show, showLimit = show]) => {
    if (value === null || value === Infinity) return `${name} not measured`;
    return `${name} up to ${show(value)}, above ${showLimit(limit)}`;
  });
  return [it.excluded, ...found].filter(Boolean).join("; ");
}
