// Pixels of pictures as metazoo decodes them: upright, without colour management, transparency on white.

const MOST_MEGAPIXELS = 128;
const EXACT = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
const THUMBNAIL = 96;

// Pixels {data: Uint8Array of [3, height, width], height, width} and thumbnail (a canvas) of a file or of a video.
export async function pictureOf(source) {
  const bitmap = await createImageBitmap(source, EXACT);
  try {
    const { width, height } = bitmap;
    if (width * height > MOST_MEGAPIXELS * 1e6) throw new Error(`has more than ${MOST_MEGAPIXELS} megapixels`);
    return { pixels: { data: planes(rgba(bitmap)), height, width }, thumbnail: thumbnailOf(bitmap) };
  } finally {
    bitmap.close();
  }
}

function rgba(bitmap) {
  const { width, height } = bitmap;
  const context = canvasOf(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const values = context.getImageData(0, 0, width, height).data;
  for (let index = 3; index < values.length; index += 4) {
    if (values[index] < 255) return rgbaByWebgl(bitmap) ?? values;
  }
  return values;
}

// A 2D canvas multiplies colours by their opacity and rounds, so transparent pixels are read from a texture, which
// keeps them. null where the browser has no WebGL, or the picture is too large for it.
function rgbaByWebgl(bitmap) {
  const { width, height } = bitmap;
  const gl = canvasOf(1, 1).getContext("webgl2");
  if (!gl) return null;
  try {
    if (Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) return null;
    const values = new Uint8Array(4 * width * height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, values);
    return gl.getError() === gl.NO_ERROR ? values : null;
  } finally {
    // Browsers keep only a few contexts.
    gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

// Colours [3, height, width] on white, of pixels [height, width, 4] whose colours are not multiplied by their opacity.
export function planes(values) {
  const count = values.length / 4;
  const data = new Uint8Array(3 * count);
  for (let pixel = 0; pixel < count; pixel += 1) {
    const opacity = values[4 * pixel + 3];
    const white = 255 * (255 - opacity);
    for (let channel = 0; channel < 3; channel += 1) {
      const value = values[4 * pixel + channel];
      data[channel * count + pixel] = opacity === 255 ? value : Math.round((value * opacity + white) / 255);
    }
  }
  return data;
}

// The centre square, which is what the model sees.
function thumbnailOf(bitmap) {
  const canvas = canvasOf(THUMBNAIL, THUMBNAIL);
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [(bitmap.width - side) >> 1, (bitmap.height - side) >> 1];
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, THUMBNAIL, THUMBNAIL);
  context.imageSmoothingEnabled = side > THUMBNAIL / 2;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, left, top, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
  return canvas;
}

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
