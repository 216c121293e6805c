// Reads the tables that packing.py wrote.

const ARRAYS = {
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array,
  float32: Float32Array, float64: Float64Array,
};

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function unzipped(id) {
  const element = document.getElementById(id), bytes = bytesOf(element.textContent.trim());
  element.remove();  // one copy is enough
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// A column: `values` has numbers, or codes of `words`.
function column(buffer, start, stored) {
  const kind = ARRAYS[stored.kind], size = kind.BYTES_PER_ELEMENT, rows = stored.rows;
  const planes = new Uint8Array(buffer, start + stored.offset, rows * size);
  const bytes = new Uint8Array(rows * size);
  for (let plane = 0; plane < size; plane++) {
    for (let row = 0; row < rows; row++) bytes[row * size + plane] = planes[plane * rows + row];
  }
  return {values: new kind(bytes.buffer), words: stored.words, rows};
}

async function unpack(id) {
  const buffer = await unzipped(id), size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const tables = {};
  for (const [name, columns] of Object.entries(header.tables)) {
    tables[name] = {};
    for (const [title, stored] of Object.entries(columns)) {
      tables[name][title] = column(buffer, 4 + size, stored);
    }
  }
  return {tables, facts: header.facts};
}

// The word or the number of a row; a missing number is null.
function cell(column, row) {
  const value = column.values[row];
  return column.words ? column.words[value] : Number.isNaN(value) ? null : value;
}
