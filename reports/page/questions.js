// The questions that the page can ask, the state of its controls, and the address of a state.

// The axes that controls set; where a combination was not measured, the first axes are kept
// longest. Several columns of a scene make the axis of heads.
const AXES = ["direction", "causal", "inputs", "length", "dtype", "heads", "machine"];
const POLICIES = {worst: "worst layer", median: "median layer", "": "no layers"};

class Questions {
  constructor({tables, facts}) {
    Object.assign(this, {tables, facts, asked: []});
    const {scenes, questions} = tables;
    for (let i = 0; i < questions.scene.rows; i++) {
      const scene = questions.scene.values[i], of = name => cell(scenes[name], scene);
      const axes = {
        length: questions.length.values[i], dtype: of("dtype"), direction: of("direction"),
        causal: of("causal"), inputs: of("inputs"), machine: of("machine"), heads: headsInWords(of),
      };
      const heads = Number(of("heads"));
      const channels = Number(of("head_dim")), group = heads / Number(of("kv_heads"));
      const shape = {heads, channels, group, batch: of("batch")};
      this.asked.push({number: i, scene, axes, shape, policy: cell(questions.policy, i)});
    }
  }

  // The candidates of a question, in the order of the tables.
  candidates(number) {
    const {questions, entries, points} = this.tables, found = [];
    const first = questions.first.values[number];
    for (let i = first; i < first + questions.count.values[number]; i++) {
      const p = entries.point.values[i], of = name => cell(points[name], p);
      const [value, low, high] = ["", "_low", "_high"].map(end => of(`perplexity${end}`));
      found.push({
        point: p, label: of("label"), variant: of("variant"), evidence: of("evidence"),
        hyperparameters: of("hyperparameters"), implementation: of("implementation"),
        isExact: Boolean(of("is_exact")), excluded: cell(entries.excluded, i),
        time: of("time_ms"), timeLow: of("time_low"), timeHigh: of("time_high"),
        noiseLow: of("noise_low"), noiseHigh: of("noise_high"),
        memory: of("memory_bytes"), exactTime: of("exact_ms"), error: cell(entries.error, i),
        errorLow: cell(entries.error_low, i), errorHigh: cell(entries.error_high, i),
        perplexity: value === null ? null : {value, low, high, length: of("perplexity_length")},
      });
    }
    return found;
  }

  rowsOf(candidate) {
    const {points, evidence} = this.tables, first = points.first.values[candidate.point];
    return [...evidence.row.values.slice(first, first + points.count.values[candidate.point])];
  }

  // The measured question that is closest to axes and a policy; the axes in `given` weigh most.
  closest(axes, policy, given = {}) {
    const target = {...axes, ...given};
    const weigh = ({axes: own, policy: layer}) => AXES.reduce((sum, axis, i) => {
      const weight = 2 ** (AXES.length - i) * (axis in given ? 1000 : 1);
      if (String(own[axis]) === String(target[axis])) return sum + weight;
      if (axis !== "length") return sum;
      const apart = Math.abs(Math.log2(own.length / target.length));
      return sum - weight * Math.min(1, apart / 100);
    }, String(layer) === String(policy) ? .5 : layer === "worst" ? .25 : 0);
    let best = null, most = -Infinity;
    for (const it of this.asked) {
      const weight = weigh(it);
      if (weight > most) [best, most] = [it, weight];
    }
    return best;
  }

  // The values of an axis, and whether each leaves the other axes of a question as they are.
  values(axis, from) {
    const found = new Map();
    for (const it of this.asked) {
      const keeps = AXES.every(other => other === axis || it.axes[other] === from.axes[other]);
      found.set(it.axes[axis], found.get(it.axes[axis]) || keeps);
    }
    const order = new Intl.Collator("en", {numeric: true});
    return [...found].sort(([a], [b]) => order.compare(a, b));
  }

  policies(from) {
    return this.asked.filter(it => it.scene === from.scene && it.axes.length === from.axes.length);
  }

  // The questions of the same scene and the most similar policy, one for each length.
  lengths(from) {
    const found = new Map();
    for (const it of this.asked) {
      const isBetter = !found.has(it.axes.length) || it.policy === from.policy;
      if (it.scene === from.scene && isBetter) found.set(it.axes.length, it);
    }
    return [...found.values()].sort((a, b) => a.axes.length - b.axes.length);
  }
}

function headsInWords(of) {
  const heads = of("heads"), groups = of("kv_heads"), batch = of("batch");
  const grouped = groups === heads ? "" : `, ${groups} kv heads`;
  return `${heads} × ${of("head_dim")}${grouped}${batch === "1" ? "" : `, batch ${batch}`}`;
}

function policyInWords(policy, isOnly) {
  return POLICIES[policy] ?? `layer ${policy}${isOnly ? " (the only one)" : ""}`;
}

// What the controls say: a question, limits, an isolated method, pinned labels, the page of a
// method or of inputs, and the axes of the chart of lines.
const state = {
  question: null, error: .1, memory: null, time: null, perplexity: null, alone: "", pinned: [],
  method: "", family: "", measure: "time", along: "length",
};

function addressOf(state) {
  const parts = new URLSearchParams();
  for (const axis of AXES) parts.set(axis, state.question.axes[axis]);
  if (state.question.policy) parts.set("layer", state.question.policy);
  parts.set("max-error", state.error);
  if (state.memory !== null) parts.set("max-memory", state.memory);
  if (state.time !== null) parts.set("max-time", state.time);
  if (state.perplexity !== null) parts.set("max-perplexity-ratio", state.perplexity);
  for (const name of ["alone", "method", "family"]) if (state[name]) parts.set(name, state[name]);
  for (const label of state.pinned) parts.append("pin", label);
  if (state.measure !== "time") parts.set("measure", state.measure);
  if (state.along !== "length") parts.set("along", state.along);
  return parts;
}

const LARGEST = 1e15;  // of a limit; charts have no place for numbers near the end of doubles

// Takes the state from the part of an address after `#`; unknown values change nothing.
function readAddress(questions, text) {
  const parts = new URLSearchParams(text);
  const isLimit = value => value > 0 && value <= LARGEST;
  const number = name => isLimit(Number(parts.get(name))) ? Number(parts.get(name)) : null;
  if (questions) {
    const now = state.question ?? questions.asked[questions.facts.first];
    const named = AXES.filter(axis => parts.has(axis));
    const given = Object.fromEntries(named.map(axis => [axis, parts.get(axis)]));
    state.question = questions.closest(now.axes, parts.get("layer") ?? now.policy, given);
  }
  state.error = number("max-error") ?? state.error;
  state.memory = number("max-memory");
  state.time = number("max-time");
  state.perplexity = number("max-perplexity-ratio");
  for (const name of ["alone", "method", "family"]) state[name] = parts.get(name) ?? "";
  state.pinned = parts.getAll("pin");
  state.measure = Object.hasOwn(MEASURES, parts.get("measure")) ? parts.get("measure") : "time";
  state.along = Object.hasOwn(ALONG, parts.get("along")) ? parts.get("along") : "length";
}
