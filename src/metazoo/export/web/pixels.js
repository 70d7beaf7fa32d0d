// Pixels of pictures as metazoo decodes them: upright, without colour management, transparency on white.

const MOST_MEGAPIXELS = 128;
const THUMBNAIL = 96;
// Upright is the default. Some decoders round coarsely when they multiply colours by their opacity themselves.
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

// Pixels {data: Uint8Array of [3, height, width], height, width} and thumbnail (a canvas) of a file or of a video.
export async function pictureOf(source) {
  const bitmap = await createImageBitmap(source, AS_STORED);
  try {
    const { width, height } = bitmap;
    if (width * height > MOST_MEGAPIXELS * 1e6) throw new Error(`has more than ${MOST_MEGAPIXELS} megapixels`);
    return { pixels: { data: planesOf(bitmap), height, width }, thumbnail: thumbnailOf(bitmap) };
  } finally {
    bitmap.close();
  }
}

function planesOf(bitmap) {
  const { width, height } = bitmap;
  const context = whiteCanvas(width, height, { willReadFrequently: true });
  // The canvas adds white times (1 - opacity), which is a whole number, to the colour times its opacity, rounded. So the
  // sum is rounded once, as in metazoo.
  context.drawImage(bitmap, 0, 0);
  const values = context.getImageData(0, 0, width, height).data;
  // The canvas is white, unless it is larger than this browser makes one.
  if (values[3] === 0) throw new Error("is too large for this browser");
  const count = width * height;
  const data = new Uint8Array(3 * count);
  for (let channel = 0; channel < 3; channel += 1) {
    for (let pixel = 0; pixel < count; pixel += 1) data[channel * count + pixel] = values[4 * pixel + channel];
  }
  return data;
}

// The centre square, which is what the model sees.
function thumbnailOf(bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [(bitmap.width - side) >> 1, (bitmap.height - side) >> 1];
  const context = whiteCanvas(THUMBNAIL, THUMBNAIL);
  context.imageSmoothingEnabled = side > THUMBNAIL / 2;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, left, top, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
  return context.canvas;
}

function whiteCanvas(width, height, options) {
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", options);
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  return context;
}
