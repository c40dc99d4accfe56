throw new RangeError('at load'); export const handler = 1;
