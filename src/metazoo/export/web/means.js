// Class means of features, as the head nearest-mean of metazoo: probabilities are the softmax of scaled cosines.
//
// A class is {name, start, examples}: `start` is {mean, images} or null, `examples` are {feature}. Every feature has
// length 1, so the mean of a class is the sum over its images divided by their number.

const LEAST_LENGTH = 1e-12;

export function countOf(entry) {
  return (entry.start?.images ?? 0) + entry.examples.length;
}

export function sumOf(entry) {
  const first = entry.start?.mean ?? entry.examples[0].feature;
  const sum = new Float64Array(first.length);
  if (entry.start) add(sum, entry.start.mean, entry.start.images);
  for (const { feature } of entry.examples) add(sum, feature, 1);
  return sum;
}

export function meanOf(entry) {
  const images = countOf(entry);
  return sumOf(entry).map((value) => value / images);
}

export function unit(vector) {
  const length = Math.max(Math.sqrt(dot(vector, vector)), LEAST_LENGTH);
  return Float64Array.from(vector, (value) => value / length);
}

// Probabilities of a feature for classes whose sums or means have length 1.
export function probabilitiesOf(feature, directions, scale) {
  const direction = unit(feature);
  const scores = directions.map((other) => scale * dot(direction, other));
  const greatest = Math.max(...scores);
  const terms = scores.map((score) => Math.exp(score - greatest));
  const total = terms.reduce((sum, term) => sum + term, 0);
  return terms.map((term) => term / total);
}

// Number of images that are recognised when their own class is learned without them, and number of images; null
// unless there are two classes and every class has at least two images.
export function leaveOneOut(classes) {
  const images = classes.reduce((sum, entry) => sum + entry.examples.length, 0);
  if (classes.length < 2 || images === 0 || classes.some((entry) => countOf(entry) < 2)) return null;
  const sums = classes.map(sumOf);
  const directions = sums.map(unit);
  let right = 0;
  classes.forEach((entry, own) => {
    for (const { feature } of entry.examples) {
      const rest = Float64Array.from(sums[own]);
      add(rest, feature, -1);
      const cosines = directions.map((other, index) => dot(feature, index === own ? unit(rest) : other));
      if (cosines.indexOf(Math.max(...cosines)) === own) right += 1;
    }
  });
  return { right, images };
}

function add(sum, vector, factor) {
  for (let index = 0; index < sum.length; index += 1) sum[index] += factor * vector[index];
}

function dot(one, other) {
  let sum = 0;
  for (let index = 0; index < one.length; index += 1) sum += one[index] * other[index];
  return sum;
}
