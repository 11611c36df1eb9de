// A student's network: 4x4 layers with batch norm folded in, weights as [4][4][input][output].
"use strict";

const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer;
const numbers = text => new Float32Array(bytes(text));

// Weights are whole numbers of 24 bits, lowest first, times a step for each output channel.
function unpack({ inputs, outputs, kernel, step, bias }) {
  const raw = new Uint8Array(bytes(kernel)), steps = numbers(step);
  const whole = at => (raw[at] << 8 | raw[at + 1] << 16 | raw[at + 2] << 24) >> 8;
  const weights = Float32Array.from({ length: raw.length / 3 }, (_, j) => whole(3 * j) * steps[j % outputs]);
  return { inputs, outputs, weights, bias: numbers(bias) };
}

function biased(pixels, { outputs, bias }) {
  return new Float32Array(pixels * outputs).map((_, j) => bias[j % outputs]);
}

// Adds an input's share to every output channel of the pixel that begins at `at`.
function stamp(out, at, value, { outputs, weights }, from) {
  for (let o = 0; o < outputs; o++) out[at + o] += value * weights[from + o];
}

// The first layer: a latent to 4x4 pixels.
function spread(latent, layer) {
  const { inputs, outputs } = layer, out = biased(16, layer);
  for (let tap = 0; tap < 16; tap++)
    for (let i = 0; i < inputs; i++)
      stamp(out, tap * outputs, latent[i], layer, (tap * inputs + i) * outputs);
  return out;
}

// A transposed convolution, stride 2, padding 1: each pixel goes to 4x4 of the image twice as wide.
function up(image, side, layer) {
  const { inputs, outputs } = layer, out = biased(4 * side * side, layer);
  for (let pixel = 0; pixel < side * side; pixel++)
    for (let tap = 0; tap < 16; tap++) {
      const y = 2 * Math.floor(pixel / side) + (tap >> 2) - 1;
      const x = 2 * (pixel % side) + (tap & 3) - 1;
      if (y < 0 || x < 0 || y >= 2 * side || x >= 2 * side) continue;
      for (let i = 0; i < inputs; i++) {
        const value = image[pixel * inputs + i];
        const from = (tap * inputs + i) * outputs;
        if (value !== 0) stamp(out, (2 * side * y + x) * outputs, value, layer, from);
      }
    }
  return out;
}

// The picture of a latent: [side][side][channel] in -1..1.
function draw(layers, latent) {
  let image = spread(latent, layers[0]);
  layers.slice(1).forEach((layer, k) => {
    image = up(image.map(value => Math.max(0, value)), 4 << k, layer);
  });
  return image.map(Math.tanh);
}
