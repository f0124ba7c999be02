package files

const renameAt2 = 276
