const value = await Promise.resolve('top-level await');
export const handler = async () => value;
export default { inside: async () => 'inside default' };
