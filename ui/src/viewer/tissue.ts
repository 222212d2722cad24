/** The tissue mask as a tinted picture to lay over the slide. */

export interface Tint {
  red: number;
  green: number;
  blue: number;
}

/** White in the mask is tissue. It becomes the tint, everything else becomes clear. */
export async function tintedMask(mask: Blob, tint: Tint): Promise<HTMLCanvasElement> {
  const bitmap = await createImageBitmap(mask);
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) return canvas;
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let index = 0; index < data.length; index += 4) {
    // A mask may be stored as 0/1 or as 0/255; transparent pixels are no tissue.
    const tissue = (data[index] as number) > 0 && (data[index + 3] as number) > 0;
    data[index] = tint.red;
    data[index + 1] = tint.green;
    data[index + 2] = tint.blue;
    data[index + 3] = tissue ? 255 : 0;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
