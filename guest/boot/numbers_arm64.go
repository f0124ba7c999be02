package boot

const finitModule = 273
