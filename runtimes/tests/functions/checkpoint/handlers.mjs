const random = Math.random;
random();
export const numbers = async () => [random(), Math.random(), process.env.STRATOS_CHECKPOINT ?? null];
