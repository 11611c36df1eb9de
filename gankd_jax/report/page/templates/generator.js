// A DCGAN generator with batch norm folded in: 4x4 kernels as [4][4][input][output].
"use strict";

const decodeBytes = base64 => Uint8Array.from(atob(base64), char => char.charCodeAt(0)).buffer;
const decodeFloats = base64 => new Float32Array(decodeBytes(base64));

// Weights are integers of `size` bytes, lowest byte first, times a scale for each output channel.
function unpackLayer({ inputs, outputs, size, kernel, scale, bias }) {
  const raw = new Uint8Array(decodeBytes(kernel)), scales = decodeFloats(scale);
  const integer = k => {
    let bits = 0;
    for (let byte = 0; byte < size; byte++) bits |= raw[size * k + byte] << 8 * (4 - size + byte);
    return bits >> 8 * (4 - size); // up and back, so that the sign is kept
  };
  const weights = Float32Array.from(
    { length: raw.length / size }, (_, k) => integer(k) * scales[k % outputs]);
  return { inputs, outputs, weights, bias: decodeFloats(bias) };
}

// The bytes of a safetensors file as `gankd export` writes it.
function packSafetensors(layers, metadata) {
  const header = { __metadata__: metadata }, arrays = [];
  let offset = 0;
  const add = (name, shape, values) => {
    const end = offset + values.byteLength;
    header[name] = { dtype: "F32", shape, data_offsets: [offset, end] };
    arrays.push(values);
    offset = end;
  };
  layers.forEach(({ inputs, outputs, weights, bias }, k) => {
    add(`layer${k}.kernel`, [4, 4, inputs, outputs], weights);
    add(`layer${k}.bias`, [outputs], bias);
  });
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = 8 * Math.ceil(text.length / 8); // numbers begin at a multiple of eight bytes
  const start = new Uint8Array(8 + length).fill(32); // padded with spaces
  new DataView(start.buffer).setBigUint64(0, BigInt(length), true);
  start.set(text, 8);
  return new Blob([start, ...arrays]);
}

// An image of that many pixels, filled with the bias.
function biasImage(pixels, { outputs, bias }) {
  return new Float32Array(pixels * outputs).map((_, j) => bias[j % outputs]);
}

// Adds value * weights to all output channels of one pixel, which begins at `offset` of the image.
function addInput(image, offset, value, { outputs, weights }, weightOffset) {
  for (let o = 0; o < outputs; o++) image[offset + o] += value * weights[weightOffset + o];
}

// The first layer: a latent to 4x4 pixels.
function projectLatent(latent, layer) {
  const { inputs, outputs } = layer, image = biasImage(16, layer);
  for (let tap = 0; tap < 16; tap++)
    for (let i = 0; i < inputs; i++)
      addInput(image, tap * outputs, latent[i], layer, (tap * inputs + i) * outputs);
  return image;
}

// A transposed convolution, stride 2, padding 1: each pixel adds to 4x4 pixels of the output.
function convTranspose(image, side, layer) {
  const { inputs, outputs } = layer, result = biasImage(4 * side * side, layer);
  for (let pixel = 0; pixel < side * side; pixel++)
    for (let tap = 0; tap < 16; tap++) {
      const y = 2 * Math.floor(pixel / side) + (tap >> 2) - 1;
      const x = 2 * (pixel % side) + (tap & 3) - 1;
      if (y < 0 || x < 0 || y >= 2 * side || x >= 2 * side) continue;
      for (let i = 0; i < inputs; i++) {
        const value = image[pixel * inputs + i];
        const weightOffset = (tap * inputs + i) * outputs;
        // After ReLU about half of the values are 0.
        if (value !== 0) addInput(result, (2 * side * y + x) * outputs, value, layer, weightOffset);
      }
    }
  return result;
}

// The image of a latent: [side][side][channel] in -1..1.
function generate(layers, latent) {
  let image = projectLatent(latent, layers[0]);
  layers.slice(1).forEach((layer, k) => {
    const relu = image.map(value => Math.max(0, value));
    image = convTranspose(relu, 4 << k, layer);
  });
  return image.map(Math.tanh);
}
