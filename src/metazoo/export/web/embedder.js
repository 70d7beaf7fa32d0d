// The embedder of the page, run by onnxruntime-web. All parts are elements of the page, compressed and in base64.

// Load the embedder; the result is a function from pixels {data, height, width} to a feature of length 1.
export async function loadEmbedder() {
  const runtime = new Blob([await partOf("runtime")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(runtime));
  // Threads need a server that isolates its pages, which a file does not have.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await partOf("runtime-wasm");
  const session = await ort.InferenceSession.create(new Uint8Array(await partOf("model")));
  let last = Promise.resolve();
  const run = async ({ data, height, width }) => {
    const images = new ort.Tensor("uint8", data, [1, 3, height, width]);
    const { features } = await session.run({ images });
    const feature = Float32Array.from(features.data);
    images.dispose();
    features.dispose();
    if (!feature.every(Number.isFinite)) throw new Error("has features that are not numbers");
    return feature;
  };
  return (pixels) => {
    // A session takes one call at a time.
    const result = last.then(() => run(pixels));
    last = result.catch(() => {});
    return result;
  };
}

async function partOf(id) {
  const element = document.getElementById(id);
  const text = element.textContent.trim();
  element.remove();
  // The first is ten times as fast, but not in every browser.
  const bytes = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(plain).arrayBuffer();
}
