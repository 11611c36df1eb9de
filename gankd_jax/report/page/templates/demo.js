// Teacher and student in the page: stored latents, latents moved by sliders, and random walks.
"use strict";

const TIMED_IMAGES = 60; // The shown time is over so many last images; fewer make it jump.
const WALK_FRAMES = 120; // From one latent of a random walk to the next; more make it slower.
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

class Demo {
  constructor(data) {
    this.data = data;
    this.students = data.students.map(student =>
      ({ ...student, layers: student.layers.map(unpackLayer) }));
    this.teacherLayers = data.teacherLayers?.map(unpackLayer);
    this.latentDim = this.students[0].layers[0].inputs;
    const values = decodeFloats(data.latents);
    this.latents = Array.from({ length: values.length / this.latentDim }, (_, k) =>
      values.slice(k * this.latentDim, (k + 1) * this.latentDim));
    this.latent = this.start = this.latents[0];
  }

  element(id) { return document.getElementById(id); }

  async open() {
    const strip = new Image();
    strip.src = this.data.teacher;
    await strip.decode();
    this.teacherStrip = strip;
    for (const id of ["teacher-image", "student-image", "difference-image"])
      this.element(id).width = this.element(id).height = this.data.size;
    this.thumbnails = this.latents.map((_, k) => this.addThumbnail(k));
    this.element("student").onchange = event => this.selectStudent(event.target.selectedIndex);
    this.element("random-walk").onclick = () => this.toggleWalk();
    this.element("new-latent").onclick = () => this.begin(this.sampleLatent());
    this.element("reset").onclick = () => this.begin(this.start, this.latents.indexOf(this.start));
    this.element("save-student").onclick = () => this.saveStudent();
    this.selectStudent(0);
  }

  // Adds a button with both images of a stored latent; returns the canvas of the student's.
  addThumbnail(k) {
    const button = this.element("stored-latents").appendChild(document.createElement("button"));
    button.setAttribute("aria-label", `stored latent ${k + 1}`);
    button.onclick = () => this.begin(this.latents[k], k);
    this.drawStored(this.addCanvas(button).getContext("2d"), k);
    return this.addCanvas(button);
  }

  addCanvas(parent) {
    const canvas = parent.appendChild(document.createElement("canvas"));
    canvas.width = canvas.height = this.data.size;
    return canvas;
  }

  drawStored(context, k) {
    const size = this.data.size; // A line of one pixel separates the images of the strip.
    context.drawImage(this.teacherStrip, k * (size + 1), 0, size, size, 0, 0, size, size);
  }

  selectStudent(index) {
    this.student = this.students[index];
    this.times = [];
    this.element("sliders").replaceChildren(...this.student.sliders.map(k => this.makeSlider(k)));
    this.thumbnails.forEach((canvas, k) => this.drawImage(canvas, this.generate(this.latents[k])));
    this.element("save-student").title = `${this.student.name}.safetensors: ${this.student.size}`;
    this.begin(this.latents[0], 0);
  }

  // A slider for one coordinate of the latent, with its value.
  makeSlider(coordinate) {
    const label = document.createElement("label"), input = document.createElement("input");
    const value = document.createElement("output");
    Object.assign(input, { type: "range", min: -4, max: 4, step: 0.1, name: coordinate });
    input.oninput = () => {
      this.stopWalk();
      const latent = Float32Array.from(this.latent);
      latent[coordinate] = input.value;
      this.show(latent);
    };
    label.append(`z${coordinate} `, input, value);
    return label;
  }

  generate(latent) {
    const start = performance.now(), image = generate(this.student.layers, latent);
    this.times = [...this.times.slice(1 - TIMED_IMAGES), performance.now() - start];
    return image;
  }

  // The teacher's image in -1..1; of a stored latent from its picture where it does not run here.
  generateTeacher(latent, stored) {
    if (this.teacherLayers) return generate(this.teacherLayers, latent);
    if (stored < 0) return undefined;
    const { size, channels } = this.data, canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    this.drawStored(context, stored);
    const pixels = context.getImageData(0, 0, size, size).data;
    return Float32Array.from({ length: size * size * channels }, (_, j) =>
      pixels[4 * Math.floor(j / channels) + j % channels] / 127.5 - 1);
  }

  // The mean time without the slowest fifth, in which the browser did other work.
  // Not the median: a browser's clock is coarse.
  typicalTime() {
    const times = [...this.times].sort((a, b) => a - b);
    const fastest = times.slice(0, Math.ceil(0.8 * times.length));
    return fastest.reduce((sum, time) => sum + time) / fastest.length;
  }

  // Begins with a latent, to which the reset button returns.
  begin(latent, stored = -1) {
    this.stopWalk();
    this.start = latent;
    this.show(latent, stored);
  }

  // Shows a latent; `stored` is its index if the page has the teacher's image of it.
  show(latent, stored = -1) {
    this.latent = latent;
    const student = this.generate(latent), teacher = this.generateTeacher(latent, stored);
    this.drawImage(this.element("student-image"), student);
    this.element("student-time").textContent = `${this.typicalTime().toFixed(1)} ms an image`;
    for (const input of this.element("sliders").querySelectorAll("input")) {
      input.value = latent[input.name];
      input.nextElementSibling.textContent = latent[input.name].toFixed(1);
    }
    this.showTeacher(teacher, student);
  }

  showTeacher(teacher, student) {
    for (const id of ["teacher-image", "difference-image"])
      this.element(id).classList.toggle("outdated", !teacher);
    this.element("teacher-latent").textContent = teacher ? "" : ": no image of this latent";
    this.element("difference").textContent = "";
    if (!teacher) return;
    const difference = student.map((value, j) => Math.abs(value - teacher[j]));
    const error = difference.reduce((sum, value) => sum + value * value, 0) / difference.length;
    this.drawImage(this.element("teacher-image"), teacher);
    this.drawImage(this.element("difference-image"), difference.map(value => value - 1));
    this.element("difference").textContent = `, mean square ${error.toFixed(3)}`;
  }

  drawImage(canvas, image) {
    const { size, channels } = this.data, pixels = new ImageData(size, size);
    for (let j = 0; j < size * size; j++)
      for (let c = 0; c < 4; c++)
        pixels.data[4 * j + c] = c < 3 ? 127.5 * image[j * channels + c % channels] + 127.5 : 255;
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  // A latent from the standard normal distribution (Box-Muller).
  sampleLatent() {
    const normal = () =>
      Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    return Float32Array.from({ length: this.latentDim }, normal);
  }

  studentFile() { return packSafetensors(this.student.layers, this.student.metadata); }

  saveStudent() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(this.studentFile());
    link.download = `${this.student.name}.safetensors`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  stopWalk() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    this.element("random-walk").textContent = "Random walk";
  }

  // Walks along great circles: every latent on the way has the norm of a normal sample.
  toggleWalk() {
    if (this.frame) { this.stopWalk(); return; }
    if (reducedMotion.matches) { this.begin(this.sampleLatent()); return; } // a step, no motion
    this.element("random-walk").textContent = "Stop";
    let from = this.latent, to = this.sampleLatent(), k = 0;
    const step = () => {
      if (k === WALK_FRAMES) [from, to, k] = [to, this.sampleLatent(), 0];
      const angle = (++k / WALK_FRAMES) * Math.PI / 2;
      this.show(from.map((value, i) => Math.cos(angle) * value + Math.sin(angle) * to[i]));
      this.frame = requestAnimationFrame(step);
    };
    this.frame = requestAnimationFrame(step);
  }
}

const demoData = document.getElementById("demo-data");
const demo = demoData && new Demo(JSON.parse(demoData.textContent));
demo?.open();
