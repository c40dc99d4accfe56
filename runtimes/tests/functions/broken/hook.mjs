stratos.onRestore(async () => { throw new RangeError('hook'); }); export const handler = async () => null;
