// The series of the chart against length: the measured points of each method along an axis.

const isLayer = policy => /^\d+$/.test(policy);

// The axes that a chart can have. `like` says whether a question is on the axis of another one,
// `of` is its number there, and `at` is the place on the screen.
const ALONG = {
  length: {
    title: from => from.axes.direction === "decode" ? "tokens before the new one" : "length",
    words: x => `length ${showCount(x)}`, tick: showCount, at: Math.log2,
    of: it => it.axes.length,
    like: (it, from) => it.scene === from.scene && it.policy === from.policy,
  },
  heads: {
    title: () => "heads of the same number of channels",
    words: x => `${x} heads`, tick: String, at: Math.log2,
    of: it => it.shape.heads,
    like: (it, from) => isSimilar(it, from) && it.shape.channels === from.shape.channels,
  },
  width: {
    title: () => "heads, all of them together with the same number of channels",
    words: x => `${x} heads`, tick: String, at: Math.log2,
    of: it => it.shape.heads,
    like: (it, from) => isSimilar(it, from) &&
      it.shape.heads * it.shape.channels === from.shape.heads * from.shape.channels,
  },
  layers: {
    title: () => "layer",
    words: x => `layer ${x}`, tick: String, at: x => x,
    of: it => Number(it.policy),
    like: (it, from) => it.scene === from.scene && it.axes.length === from.axes.length &&
      isLayer(it.policy),
  },
};

// Whether two questions differ in the number of heads and of channels only.
function isSimilar(it, from) {
  const same = ["direction", "causal", "inputs", "length", "dtype", "machine"];
  return it.policy === from.policy && it.shape.batch === from.shape.batch &&
    it.shape.group === from.shape.group && same.every(axis => it.axes[axis] === from.axes[axis]);
}

// The questions on an axis, in the order of their numbers.
function questionsAlong(questions, name) {
  const {like, of} = ALONG[name], found = new Map();
  for (const it of questions.asked) {
    if (like(it, state.question) && !found.has(of(it))) found.set(of(it), it);
  }
  return [...found].sort(([a], [b]) => a - b).map(([x, question]) => ({x, question}));
}

const keyOf = it => JSON.stringify([it.variant, it.hyperparameters, it.implementation]);

// The axis of the chart: that of the state if the question has several places there.
function axisOfLines(questions) {
  return questionsAlong(questions, state.along).length > 1 ? state.along : "length";
}

// A series for each setting of each method: its points in the order of the axis.
function seriesAlong(questions, places) {
  const found = new Map();
  for (const {x, question} of places) {
    for (const it of questions.candidates(question.number)) {
      if (it.evidence !== "measured") continue;
      const key = keyOf(it);
      if (!found.has(key)) found.set(key, {...it, points: []});
      found.get(key).points.push({x, it});
    }
  }
  return [...found.values()];
}

// One series for each method. Of the settings with the most points it is the one that is chosen
// here, or else the most accurate one. A method that is shown alone has all its settings. Pinned
// labels are always there.
function selected(series, candidates, limits) {
  const known = new Map(candidates.map(it => [keyOf(it), it]));
  const rank = one => {
    const it = known.get(keyOf(one));
    if (!it) return [3, 0];
    if (it.isExact) return [0, it.time];
    return whyNot(it, limits) ? [it.excluded ? 2 : 1, it.errorHigh] : [0, it.time];
  };
  const order = (a, b) => b.points.length - a.points.length ||
    rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1];
  const nameOf = one => one.isExact ? "exact" : one.variant;
  const best = new Map();
  for (const one of [...series].sort(order)) {
    if (!best.has(nameOf(one))) best.set(nameOf(one), one);
  }
  const isAlone = one => one.variant === state.alone;
  if (series.some(isAlone)) return series.filter(one => isAlone(one) || one === best.get("exact"));
  const isPinned = one => state.pinned.includes(one.label);
  return series.filter(one => best.get(nameOf(one)) === one || isPinned(one));
}

const isUseless = one => one.points.every(({it}) => it.excluded);
