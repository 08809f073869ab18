// Scores raw pixels with nsfwjs itself. Arguments: the directory with node_modules. Input: JSON on standard input,
// {name, folder, shards, size, type, pixels: [base64 RGB]}; output: JSON, one {class: probability} a picture.
"use strict";
const fs = require("fs");
const path = require("path");

const home = path.join(process.argv[2], "node_modules");
const load = (name) => require(require.resolve(name, { paths: [home] }));
console.log = console.info = console.error; // nsfwjs greets on standard output

async function main() {
  const asked = JSON.parse(fs.readFileSync(0, "utf8"));
  const tf = load("@tensorflow/tfjs");
  load("@tensorflow/tfjs-backend-wasm");
  await tf.setBackend("wasm");
  await tf.ready();
  // The package's own loaders copy each character of a shard into a property; its files are given directly instead.
  const bring = (file) => async () => ({
    default: require(path.join(home, "nsfwjs/dist/models", asked.folder, `${file}.min.js`)),
  });
  const shards = Array.from({ length: asked.shards }, (_, at) => bring(`group1-shard${at + 1}of${asked.shards}`));
  const definition = {
    name: asked.name,
    numOfWeightBundles: asked.shards,
    modelJson: bring("model"),
    weightBundles: shards,
  };
  const options = { size: asked.size, modelDefinitions: [definition] };
  if (asked.type) options.type = asked.type;
  const model = await load("nsfwjs/core").load(asked.name, options);
  const scored = [];
  for (const encoded of asked.pixels) {
    const image = tf.tensor3d(Buffer.from(encoded, "base64"), [asked.size, asked.size, 3], "int32");
    const found = await model.classify(image, 5);
    image.dispose();
    scored.push(Object.fromEntries(found.map((one) => [one.className.toLowerCase(), one.probability])));
  }
  process.stdout.write(JSON.stringify(scored));
}

main();
