// Numbers in words, as in reports/metrics.py, and commands as in reports/tables.py.

function threeDigits(value) {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  if (Math.abs(value) >= 1e6) {
    return value.toExponential(2).replace(/\.?0+e/, "e").replace(/e\+(\d)$/, "e+0$1");
  }
  return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
}

const SHOWN = {
  show_ms: v => {
    if (v >= 1e3) return `${threeDigits(v / 1e3)} s`;
    return v >= 1 ? `${threeDigits(v)} ms` : `${threeDigits(v * 1e3)} µs`;
  },
  show_bytes: v => {
    const units = ["TiB", "GiB", "MiB", "KiB"];
    const at = units.findIndex((_, i) => v >= 2 ** (40 - 10 * i));
    return at < 0 ? `${v.toFixed(0)} B` : `${threeDigits(v / 2 ** (40 - 10 * at))} ${units[at]}`;
  },
  show_error: v => {
    if (v === 0 || v >= 1e-3) return threeDigits(v);
    const short = Number(v.toPrecision(2));
    return short < 1e-4 ? short.toExponential().replace(/e-(\d)$/, "e-0$1") : String(short);
  },
  show_ratio: v => `${threeDigits(v)}×`,
  show_percent: v => `${threeDigits(100 * v)} %`,
  show_number: threeDigits,
  show_count: showCount,
};

function showCount(value) {
  for (const [unit, power] of [["M", 20], ["k", 10]]) {
    const isWhole = value % 2 ** (power - 1) === 0;
    if (value >= 2 ** power && isWhole) return `${value / 2 ** power}${unit}`;
  }
  return String(value);
}

// A number with six significant digits, as Python's f"{value:g}" writes it.
function sixDigits(value) {
  const [digits, power] = value.toExponential(5).split("e");
  if (power >= -4 && power < 6) return String(Number(value.toPrecision(6)));
  return `${Number(digits)}e${power[0]}${power.slice(1).padStart(2, "0")}`;
}

const budgetInWords = error => String(Number(error.toPrecision(3)));

// A number with its interval: `12.3 ms [12.1, 12.6]`. The ends have units only if these differ from
// that of the number.
function withInterval(show, value, low, high) {
  if (value === null) return "";
  const [shown, ...ends] = [value, low, high].map(it => it === null ? "" : SHOWN[show](it));
  if (ends.includes("") || (low === value && high === value)) return shown;
  const unit = shown.split(" ")[1], isSame = ends.every(end => unit && end.endsWith(` ${unit}`));
  const bare = isSame ? ends.map(end => end.slice(0, -unit.length - 1)) : ends;
  return `${shown} [${bare.join(", ")}]`;
}

// A word for a shell: bare or in double quotes if that is safe, otherwise in single quotes.
function inShell(word) {
  if (/^[\p{L}\p{N}_.=:+/,-]+$/u.test(word) || /^[\w@%+=:,./-]+$/.test(word)) return word;
  if (/^[\p{L}\p{N}_ .=:+/,()-]+$/u.test(word)) return `"${word}"`;
  return `'${word.replaceAll("'", `'"'"'`)}'`;
}

// The command that measures a row again, as reports/tables.py writes it.
function commandOf(commands, row) {
  const names = Object.keys(commands);
  const of = Object.fromEntries(names.map(name => [name, cell(commands[name], row)]));
  const {device, hyperparameters, reason, inputs_detail, modules, ...own} = of;
  own.variant = `${own.variant} ${hyperparameters}`.trim();
  const known = modules.split(/\s+/).filter(Boolean);
  const imports = known.flatMap(name => ["--import", inShell(name)]);
  const sets = Object.entries(own).filter(([, value]) => value !== "")
    .flatMap(([name, value]) => ["--set", inShell(`${name}=${value}`)]);
  return ["python -m bench run", ...imports, "--device", inShell(device), ...sets].join(" ");
}
