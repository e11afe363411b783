// Which pictures nearly are the same? A difference hash of each thumbnail (64 bits: is a pixel of
// a 9 x 8 grey copy brighter than its right neighbour?); near means that few bits differ.

const NEAR_BITS = 6;

/** The hash as two numbers of 32 bits, or null for a picture that cannot be shown. */
export async function hash(image) {
  try {
    await image.decode();
  } catch {
    return null;
  }
  const canvas = new OffscreenCanvas(9, 8);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, 9, 8);
  const { data } = context.getImageData(0, 0, 9, 8);
  const grey = (x, y) => {
    const at = 4 * (9 * y + x);
    return 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
  };
  const halves = [0, 0];
  for (let y = 0; y < 8; y += 1) {
    for (let x = 0; x < 8; x += 1) {
      halves[y >> 2] = (halves[y >> 2] << 1) | Number(grey(x, y) > grey(x + 1, y));
    }
  }
  return halves;
}

function bits(number) {
  let count = 0;
  for (let rest = number >>> 0; rest; rest &= rest - 1) count += 1;
  return count;
}

const distance = (one, other) => bits(one[0] ^ other[0]) + bits(one[1] ^ other[1]);

/** Groups of items that are alike: same bytes, or same label and nearly the same picture. */
export function groups(items) {
  const found = [];
  for (const item of items) {
    const isLike = ([first]) => first.sha256 === item.sha256 || (first.label === item.label
      && first.hash && item.hash && distance(first.hash, item.hash) <= NEAR_BITS);
    const group = found.find(isLike);
    if (group) group.push(item);
    else found.push([item]);
  }
  return found;
}
