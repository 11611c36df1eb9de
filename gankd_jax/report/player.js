// The controls of the student in the page: latents stored, moved by sliders, or walking.
"use strict";

const KEPT = 60; // times of drawing, of the last pictures
const FRAMES = 120; // from one latent of a walk to the next

class Player {
  constructor(data) {
    this.data = data;
    this.students = data.students.map(one => ({ ...one, layers: one.layers.map(unpack) }));
    this.length = this.students[0].layers[0].inputs;
    const all = numbers(data.latents);
    this.latents = Array.from({ length: all.length / this.length }, (_, k) =>
      all.slice(k * this.length, (k + 1) * this.length));
    this.latent = this.latents[0];
    this.teacher = this.find("teacher").getContext("2d");
  }

  find(id) { return document.getElementById(id); }

  canvas(parent) {
    const canvas = parent.appendChild(document.createElement("canvas"));
    canvas.width = canvas.height = this.data.size;
    return canvas;
  }

  async start() {
    const strip = new Image();
    strip.src = this.data.teacher;
    await strip.decode();
    this.strip = strip;
    for (const id of ["teacher", "drawn"]) this.find(id).width = this.find(id).height = this.data.size;
    this.thumbs = this.latents.map((_, k) => this.thumb(k));
    this.find("student").onchange = event => this.take(event.target.selectedIndex);
    this.find("walk").onclick = () => this.walk();
    this.find("fresh").onclick = () => { this.stop(); this.show(this.random()); };
    this.take(0);
  }

  // A button with a stored latent's two pictures.
  thumb(k) {
    const button = this.find("stored").appendChild(document.createElement("button"));
    button.setAttribute("aria-label", `stored latent ${k + 1}`);
    button.onclick = () => { this.stop(); this.show(this.latents[k], k); };
    this.copy(this.canvas(button).getContext("2d"), k);
    return this.canvas(button);
  }

  copy(context, k) {
    const size = this.data.size; // a line of one pixel between the strip's pictures
    context.drawImage(this.strip, k * (size + 1), 0, size, size, 0, 0, size, size);
  }

  take(index) {
    this.student = this.students[index];
    this.times = [];
    this.find("sliders").replaceChildren(...this.student.sliders.map(place => this.slider(place)));
    this.thumbs.forEach((canvas, k) => this.put(canvas, this.draw(this.latents[k])));
    this.stop();
    this.show(this.latents[0], 0);
  }

  slider(place) {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "range", min: -4, max: 4, step: 0.01, name: place });
    input.oninput = () => {
      this.stop();
      const moved = Float32Array.from(this.latent);
      moved[place] = input.value;
      this.show(moved);
    };
    label.append(`z${place} `, input);
    return label;
  }

  draw(latent) {
    const began = performance.now(), picture = draw(this.student.layers, latent);
    this.times = [...this.times.slice(1 - KEPT), performance.now() - began];
    return picture;
  }

  // The mean without the slowest fifth, in which the browser did something else; its clock is coarse.
  usual() {
    const times = [...this.times].sort((a, b) => a - b);
    const fast = times.slice(0, Math.ceil(0.8 * times.length));
    return fast.reduce((sum, time) => sum + time) / fast.length;
  }

  // Shows a latent; of a stored one the teacher's picture is there too.
  show(latent, stored) {
    this.latent = latent;
    this.put(this.find("drawn"), this.draw(latent));
    this.find("time").textContent = `${this.usual().toFixed(1)} ms a picture`;
    for (const input of this.find("sliders").querySelectorAll("input")) input.value = latent[input.name];
    const known = stored !== undefined;
    if (known) this.copy(this.teacher, stored);
    this.teacher.canvas.classList.toggle("left", !known);
    this.find("which").textContent = known ? `stored latent ${stored + 1}` : "of the latent left behind";
  }

  put(canvas, picture) {
    const { size, channels } = this.data, pixels = new ImageData(size, size);
    for (let j = 0; j < size * size; j++)
      for (let c = 0; c < 4; c++)
        pixels.data[4 * j + c] = c < 3 ? 127.5 * picture[j * channels + c % channels] + 127.5 : 255;
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  random() {
    const normal = () =>
      Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    return Float32Array.from({ length: this.length }, normal);
  }

  stop() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    this.find("walk").textContent = "Random walk";
  }

  // Along great circles, so that each latent has a length that the normal distribution gives.
  walk() {
    if (this.frame) { this.stop(); return; }
    this.find("walk").textContent = "Stop";
    let from = this.latent, to = this.random(), k = 0;
    const step = () => {
      if (k === FRAMES) [from, to, k] = [to, this.random(), 0];
      const angle = (++k / FRAMES) * Math.PI / 2;
      this.show(from.map((value, i) => Math.cos(angle) * value + Math.sin(angle) * to[i]));
      this.frame = requestAnimationFrame(step);
    };
    this.frame = requestAnimationFrame(step);
  }
}

const carried = document.getElementById("player-data");
const player = carried && new Player(JSON.parse(carried.textContent));
player?.start();
