// Texts as eval/packed.py packs them. A character holds seven bits; DEL and a character stand for that character with
// 0x40 flipped. The bits are DEFLATE; unpacked, a byte below 0x80 is itself, 0x80 to 0xAF is one of the first words of
// the list, 0xB0 to 0xFE and the next byte one of the others, 0xFF and three bytes any other character.

const SHORT = 48;
const KEPT = 12; // blocks that stay unpacked

async function inflated(id) {
  const source = document.getElementById(id).textContent;
  const bytes = new Uint8Array(Math.ceil((source.length * 7) / 8));
  let held = 0,
    count = 0,
    at = 0;
  for (let i = 0; i < source.length; i++) {
    let value = source.charCodeAt(i);
    if (value === 0x7f) value = source.charCodeAt(++i) ^ 0x40;
    held = ((held << 7) | value) & 0x7fff;
    count += 7;
    if (count >= 8) bytes[at++] = (held >> (count -= 8)) & 0xff;
  }
  const stream = new Blob([bytes.subarray(0, at)]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Packed {
  constructor() {
    this.blocks = new Map();
  }

  async words() {
    this.list ??= inflated("words").then((bytes) =>
      new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes).split("\n"),
    );
    return this.list;
  }

  // The text at [block, start, length]
  async text(place) {
    const block = await this.block(place[0]);
    return block.slice(place[1], place[1] + place[2]);
  }

  async block(number) {
    if (!this.blocks.has(number)) {
      this.blocks.set(number, this.unpacked(number));
      if (this.blocks.size > KEPT) this.blocks.delete(this.blocks.keys().next().value);
    }
    return this.blocks.get(number);
  }

  async unpacked(number) {
    const [bytes, words] = await Promise.all([inflated("block" + number), this.words()]);
    const plain = new TextDecoder("latin1");
    const pieces = [];
    let from = 0;
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i];
      if (byte < 0x80) continue;
      if (i > from) pieces.push(plain.decode(bytes.subarray(from, i)));
      if (byte < 0x80 + SHORT) pieces.push(words[byte - 0x80]);
      else if (byte < 0xff) pieces.push(words[SHORT + (byte - 0x80 - SHORT) * 256 + bytes[++i]]);
      else pieces.push(String.fromCodePoint((bytes[++i] << 16) | (bytes[++i] << 8) | bytes[++i]));
      from = i + 1;
    }
    pieces.push(plain.decode(bytes.subarray(from)));
    return pieces.join("");
  }
}
